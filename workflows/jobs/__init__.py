"""Templates of cluster jobs, and the starter of a configuration file."""
