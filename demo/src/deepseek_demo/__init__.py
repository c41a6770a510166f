"""Plays real traffic against the whole system on one machine and shows it."""
