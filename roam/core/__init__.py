"""The ground floor: problems, plans, lifetimes, bounds and the checker. No torch, no solver."""
