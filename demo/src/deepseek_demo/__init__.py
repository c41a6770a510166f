"""Plays recorded traffic against the whole system on one machine, and shows what the operator does about it.

trace (traffic) ──► stretch to play + the days before it (stage)
the days before ──► Prometheus (backfill)        the stretch ──► real requests with pictures (player)
local cluster, forecaster, operator, one DeepSeekDeployment (run, processes, subject)
what is seen (watch) ──► terminal (live) ──► figures, timeline and picture at the end (summary, picture)
"""
