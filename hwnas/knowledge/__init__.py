"""What finished searches found, kept in a database for later searches of similar data."""
