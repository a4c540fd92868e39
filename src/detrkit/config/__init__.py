"""Settings of every command, and how they are read from the command line and files."""
