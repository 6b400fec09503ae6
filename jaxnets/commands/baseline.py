"""The plain method that a network on texts has to beat: TF-IDF with logistic regression."""

import numpy as np

from jaxnets.columns import Tokens
from jaxnets.data import Split

__all__ = ["tfidf_accuracy"]

#: What cross-validation on the training texts chooses from; the last where a class has too few.
_CHOICES = {
    "tfidfvectorizer__ngram_range": [(1, 1), (1, 2)],
    "logisticregression__C": [2.0, 8.0],
}
_FOLDS = 3
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
    rows = np.random.default_rng(0).permutation(len(train))[:MOST]
    texts, labels = column.texts(train.inputs[rows]), train.target[rows]
    if np.unique(labels, return_counts=True)[1].min() < _FOLDS:
        model.set_params(**{name: values[-1] for name, values in _CHOICES.items()})
        model.fit(texts, labels)
    else:
        model = GridSearchCV(model, _CHOICES, cv=_FOLDS).fit(texts, labels).best_estimator_
    grams, penalty = (model.get_params()[name] for name in _CHOICES)
    told = f"TF-IDF of 1 to {grams[1]} {column.unit} with logistic regression, C = {penalty:g}"
    return float(np.mean(model.predict(column.texts(test.inputs)) == test.target)), told
