"""Data in and out: tables, named toy targets, real data sets."""
