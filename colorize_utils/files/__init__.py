"""What the lessons lean on and do not teach: photo files, downloads, checkpoints."""
