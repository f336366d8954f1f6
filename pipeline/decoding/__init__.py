"""Decodes the bytes of one image to RGB pixels, for all formats of cameras, phones and programs that are supported."""
