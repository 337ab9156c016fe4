"""Pictures of results. Each one says which data it rests on and that this is no medical device."""
