"""The bytes of one image to RGB pixels, whatever camera, phone or program wrote them."""
