"""Model servers of others, each to be run in a virtual environment of its own."""
