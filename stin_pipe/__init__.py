"""From folders of videos to a trained two-stream action recogniser."""
