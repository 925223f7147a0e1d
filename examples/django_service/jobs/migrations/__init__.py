"""How the tables of jobs have changed."""
