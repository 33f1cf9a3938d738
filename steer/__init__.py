"""steer: train flow maps, steer them with a reward while they sample, and tune them to it."""
