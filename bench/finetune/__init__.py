"""Measures of fine-tuning: what training costs beside a bare loop, and what a kill costs."""
