"""A long run under churn, watched for what grows: `python -m bench.soak --minutes 60`."""
