"""Data sets, splits, video, faces and the shards that extraction writes."""
