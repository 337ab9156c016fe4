"""Deep fusion learning and patch voting for mammographic ROIs. Research software, no medical device."""
