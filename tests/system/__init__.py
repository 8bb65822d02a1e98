"""The whole service as processes of its own: started, spoken with, killed, started again."""
