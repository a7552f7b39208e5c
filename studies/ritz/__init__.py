"""Ways to measure a spectrum, compared: what RitzMinimax rests on."""
