"""What the user types: argparse and the story, top to bottom."""
