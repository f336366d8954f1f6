"""What files a shard leaves, how they reach their final names, and whose they are."""
