"""The commands: `app` is the entry point; `plans`, `layout` and `bench` hold one group each."""
