"""Optuna studies of the settings, on folds inside train and val. The test part is never read."""
