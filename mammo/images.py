"""Decoding one picture from bytes into grey pixels, with limits that keep bad files out."""
