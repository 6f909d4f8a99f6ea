"""What serves one library outside the main path."""
