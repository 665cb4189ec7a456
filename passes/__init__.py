"""Graph passes, one a file. Imported as `roam.passes`."""

if __name__ != "roam.passes":
    raise ImportError(f"this package is roam.passes, not {__name__}")
