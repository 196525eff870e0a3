"""Small-sample augmentation: new rows like those of a table, class by class. The face is ``estimator.ParticleAugmenter``."""
