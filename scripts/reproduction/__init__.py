"""The paper's tables and figures as trainings to be run."""
