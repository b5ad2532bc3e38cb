"""Helpers and lesson code of image-colorization-unet. Import the modules you need; nothing is re-exported."""
