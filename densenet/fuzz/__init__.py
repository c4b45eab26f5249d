"""Fuzzing: builders of image files that are costly to decode, mutations of valid files, and a search for new ones."""
