"""From words to a run: settings, inputs, methods, and what a run folder says of itself. The face is ``build.build``."""
