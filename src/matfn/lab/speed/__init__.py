"""Speed: time against error beside every peer, interleaved."""
