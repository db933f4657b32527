"""What versus_llamafactory.py and prepare.py are made of: the job, both sides, the clock."""
