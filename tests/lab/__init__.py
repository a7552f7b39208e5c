"""Tests of the lab and of the command line."""
