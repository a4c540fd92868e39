"""Which files a data set has, how they are encoded, and which belong together."""
