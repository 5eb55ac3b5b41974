"""What a machine is, and how far one may believe it: facts, levels, identities in hardware."""
