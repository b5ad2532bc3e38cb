"""Where the outside comes in, it is checked: files, folders, downloads, settings, checkpoints. Imports no lesson."""
