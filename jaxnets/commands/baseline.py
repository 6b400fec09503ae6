"""The plain method that a network on texts has to beat: TF-IDF with logistic regression."""

import numpy as np

from jaxnets.columns import Tokens
from jaxnets.data import Split

__all__ = ["tfidf_accuracy"]

#: What threefold cross-validation on the training texts chooses from.
_CHOICES = {
    "tfidfvectorizer__ngram_range": [(1, 1), (1, 2)],
    "logisticregression__C": [2.0, 8.0],
}
#: Training texts that are looked at: enough for a minute's work.
MOST = 20_000


def tfidf_accuracy(train: Split, test: Split) -> tuple[float, str]:
    """How well a linear model does on the tokens that the network saw.

    Returns:
      Accuracy on the test texts, and a description of the model.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    column = train.columns["inputs"]
    assert isinstance(column, Tokens)
    vectorizer = TfidfVectorizer(
        tokenizer=str.split if column.unit == "words" else list,
        token_pattern=None,  # pyright: ignore[reportArgumentType]
        lowercase=False,
        sublinear_tf=True,
    )
    model = make_pipeline(vectorizer, LogisticRegression(max_iter=300))
    search = GridSearchCV(model, _CHOICES, cv=3)
    search.fit(column.texts(train.inputs[:MOST]), train.target[:MOST])
    grams = search.best_params_["tfidfvectorizer__ngram_range"][1]
    penalty = search.best_params_["logisticregression__C"]
    told = f"TF-IDF of 1 to {grams} {column.unit} with logistic regression, C = {penalty:g}"
    correct = search.predict(column.texts(test.inputs)) == test.target
    return float(np.mean(correct)), told
