"""Files that cost more than they look: builders of known ones, mutations of good ones, and a search for new ones."""
