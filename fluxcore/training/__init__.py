"""What trainers share: configuration, run folder, trackers, checkpoints, validation, samples and meters."""
