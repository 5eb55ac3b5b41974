"""What leaks: the honest view of an adversary, its store on disk, and how leakage is measured."""
