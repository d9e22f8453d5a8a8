from restore_diff.commands.export import import_main as main

__all__ = ["main"]
