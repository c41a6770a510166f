"""`deepseek-forecaster backtest`: how good the forecasts would have been on a recorded series.

source (a CSV or Prometheus) → play (walk forward, as live) → yardsticks (what to hold it against) → score → write (JSON, CSV) and report (HTML)
"""
