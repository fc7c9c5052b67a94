"""Everything a user can set: the model, and how it is read from file, environment and command line."""
