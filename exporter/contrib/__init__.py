"""Keep what serves one library outside the main path."""
