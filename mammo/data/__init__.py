"""Where ROIs come from: archives, films and phantoms behind one function."""
