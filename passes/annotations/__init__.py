"""Annotations: passes that only note facts about nodes, for capture and lowering. One a file."""
