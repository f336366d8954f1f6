"""Where segments come from besides a ZegFormer: networks of Hugging Face's library, SAM, regions without weights."""
