"""The synthetic town: a seeded, procedural neighbourhood as place set and drive bag, for tests, demo and training."""
