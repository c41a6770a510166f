"""The decision, pure: no clock, no network, no logging. Start reading at `decide.py`."""
