"""A volunteer's machine in a real hive: `fedhive join`."""
