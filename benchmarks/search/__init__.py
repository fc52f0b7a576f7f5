"""Searches compared on tabulated spaces: every architecture of a small space is trained once."""
