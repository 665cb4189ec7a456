"""Looking at plans: what was planned, what was not and why, what it measures, how it looks."""
